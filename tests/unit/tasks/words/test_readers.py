"""CoNLL-U, columns and Hub sets become sentences whose words are found in their texts."""

from __future__ import annotations

from pathlib import Path

import pytest

from probes.tasks import load_columns_suite, load_conllu_suite, load_hub_words_suite
from probes.tasks.words.conllu import read_columns, read_conllu

DATA = Path(__file__).parents[5] / "shared" / "data"

CONLLU = """\
# sent_id = one
# text = I don't know.
1	I	I	PRON	PRP	Case=Nom|Number=Sing	4	nsubj	_	_
2-3	don't	_	_	_	_	_	_	_	_
2	do	do	AUX	VBP	_	4	aux	_	_
3	n't	not	PART	RB	_	4	advmod	_	_
4	know	know	VERB	VB	VerbForm=Inf	0	root	_	SpaceAfter=No
5	.	.	PUNCT	.	_	4	punct	_	_

# sent_id = two
1-2	du	_	_	_	_	_	_	_	SpaceAfter=No
1	de	de	ADP	_	_	3	case	_	_
2	le	le	DET	_	_	3	det	_	_
2.1	rien	_	_	_	_	_	_	_	_
3	chat	chat	NOUN	_	Number=Sing	0	root:x	_	_
"""


def written(folder: Path, content: str, name: str = "train.conllu") -> Path:
    path = folder / name
    path.write_text(content, encoding="utf-8")
    return path


def test_words_have_their_place_in_the_text_their_tags_and_their_heads(tmp_path):
    one, two = read_conllu(written(tmp_path, CONLLU))
    assert (one.name, one.text) == ("one", "I don't know.")
    assert [one.text[first:end] for first, end in one.ranges] == ["I", "do", "n't", "know", "."]
    assert one.upos == ("PRON", "AUX", "PART", "VERB", "PUNCT")
    assert one.tags("feats.Number") == ("Sing", "", "", "", "")
    assert (one.heads, one.relations[0]) == ((4, 4, 4, 0, 4), "nsubj")
    assert two.text == "duchat"
    assert two.ranges == ((0, 2), (0, 2), (2, 6))  # `de` and `le` do not make up `du`
    assert (two.words, two.xpos) == (("de", "le", "chat"), ())


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1\tI\tI\tPRON", "line 1: CoNLL-U has 10 columns with tabs between them; got 4"),
        ("2\tI\t_\t_\t_\t_\t0\troot\t_\t_", "line 1: word number 1 was expected; got '2'"),
        ("1\tI\t_\t_\t_\t_\t7\troot\t_\t_", "line 1: a head is a number from 0 to 1; got '7'"),
        ("1\tI\t_\t_\t_\tSing\t0\troot\t_\t_", "line 1: features are .*; got 'Sing'"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line: str, message: str):
    with pytest.raises(ValueError, match=message):
        read_conllu(written(tmp_path, line + "\n"))


def test_columns_are_words_and_tags(tmp_path):
    file = written(tmp_path, "-DOCSTART- -X- O\n\nNew\tNNP\tB-place\nYork\tNNP\tI-place\n\nno\tDT\tO\n", "train.conll")
    one, two = read_columns(file)
    assert (one.text, one.entities, two.words) == ("New York", ("B-place", "I-place"), ("no",))
    assert read_columns(file, tag=1)[0].entities == ("NNP", "NNP")
    assert read_columns(file, joined_by="")[0].ranges == ((0, 3), (3, 7))
    with pytest.raises(ValueError, match=r"train\.conll, line 3: 3 columns.*suite\.tag_column"):
        read_columns(file, tag=5)


def treebank(folder: Path) -> Path:
    for name in ("x-ud-train.conllu", "x-ud-dev.conllu", "x-ud-test.conllu"):
        written(folder, CONLLU.replace("know", f"know{name[5]}"), name)
    return folder


def test_a_treebank_has_tasks_of_words_pairs_and_trees(tmp_path):
    suite = load_conllu_suite(treebank(tmp_path), tasks=["upos", "relation", "edge", "trees"], name="x")
    upos, relation, edge, trees = suite.tasks
    train = upos.splits["train"]
    assert (len(train), train.words.types[1]) == (8, "do")
    assert relation.labels == ("advmod", "aux", "case", "det", "nsubj", "punct", "root")  # without subtypes
    pairs = edge.splits["train"].words
    assert pairs.spans.shape == (6, 2, 2)
    assert pairs.types[0] == f"I {pairs.sentences[0].words[3]}"
    assert trees.splits["train"].words.spans[:, 0].tolist() == [[0, 5], [0, 3]]
    assert {split: len(rows) for split, rows in trees.splits.items()} == {"train": 2, "validation": 2, "test": 2}


def test_an_unknown_task_is_named_with_those_there_are(tmp_path):
    with pytest.raises(ValueError, match=r"No task 'pos'.*upos, xpos, relation, edge, trees, feats\.Case"):
        load_conllu_suite(treebank(tmp_path), tasks=["pos"])


def test_a_folder_without_a_test_file_is_refused(tmp_path):
    written(tmp_path, CONLLU)
    with pytest.raises(FileNotFoundError, match=r"no test file that ends in \.conllu; it has train\.conllu"):
        load_conllu_suite(tmp_path)


def test_without_validation_a_part_of_the_training_sentences_serves(tmp_path, caplog):
    lines = "\n\n".join(f"w{i}\t{'O' if i % 2 else 'B-x'}" for i in range(20))
    written(tmp_path, lines, "train.conll")
    written(tmp_path, "a\tO\nb\tB-x\n", "test.conll")
    suite = load_columns_suite(tmp_path)
    splits = suite.tasks[0].splits
    assert len(splits["train"]) + len(splits["validation"]) == 20
    assert len(splits["validation"]) == 4
    assert "has no validation split" in caplog.text


def test_sentences_with_a_tag_that_training_lacks_are_left_out_and_counted(tmp_path, caplog):
    written(tmp_path, "a\tO\nb\tB-x\n", "train.conll")
    written(tmp_path, "a\tO\nc\tB-x\n", "dev.conll")
    written(tmp_path, "a\tO\nc\tB-new\n\nd\tO\n", "test.conll")
    suite = load_columns_suite(tmp_path)
    assert suite.tasks[0].splits["test"].targets == ("O",)
    assert "the sentences of 1 words are left out, whose tag no training word has: B-new (1)" in caplog.text


def test_tags_that_are_not_those_of_entities_lose_single_words_and_have_a_name_of_their_own(tmp_path):
    written(tmp_path, "a\tX\nb\tY\n", "train.conll")
    written(tmp_path, "a\tX\n", "dev.conll")
    written(tmp_path, "a\tX\nc\tNEW\n\nd\tY\n", "test.conll")
    (task,) = load_columns_suite(tmp_path, task="pos").tasks
    assert (task.name, task.splits["test"].targets) == ("pos", ("X", "Y"))


def test_hub_sets_of_numbers_have_the_names_of_their_tags(tmp_path):
    import datasets

    names = ["O", "B-x", "I-x"]
    features = datasets.Features(
        {
            "tokens": datasets.Sequence(datasets.Value("string")),
            "ner_tags": datasets.Sequence(datasets.ClassLabel(names=names)),
        }
    )
    rows = {"tokens": [["New", "York"], ["no"]], "ner_tags": [[1, 2], [0]]}
    for split in ("train", "validation", "test"):
        datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / f"{split}.parquet")
    suite = load_hub_words_suite(str(tmp_path), name="s")
    split = suite.tasks[0].splits["test"]
    assert split.targets == ("B-x", "I-x", "O")
    assert split.words.sentences[0].text == "New York"
    with pytest.raises(ValueError, match=r"no column 'pos'.*suite\.words"):
        load_hub_words_suite(str(tmp_path), tags="pos")


@pytest.mark.skipif(not (DATA / "treebank").is_dir(), reason="needs ../shared/data/treebank")
def test_the_text_of_a_real_treebank_is_the_one_it_states():
    file = DATA / "treebank" / "dev.conllu"
    lines = file.read_text(encoding="utf-8").split("\n")
    stated = [line.removeprefix("# text = ") for line in lines if line.startswith("# text = ")]
    assert [sentence.text for sentence in read_conllu(file)] == stated
