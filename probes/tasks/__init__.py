"""Where examples come from: generated sentences, JSON lines, tables, treebanks, the Hub; prompts, splits, checks."""

from probes.tasks.flan2021 import load_flan2021_suite as load_flan2021_suite
from probes.tasks.groups import aligned as aligned
from probes.tasks.groups import divided as divided
from probes.tasks.hub import load_hub_suite as load_hub_suite
from probes.tasks.local import load_local_suite as load_local_suite
from probes.tasks.starter import next_word_suite as next_word_suite
from probes.tasks.starter import starter_suite as starter_suite
from probes.tasks.table import table_suite as table_suite
from probes.tasks.task import Label as Label
from probes.tasks.task import Split as Split
from probes.tasks.task import Suite as Suite
from probes.tasks.task import Task as Task
from probes.tasks.task import TaskKind as TaskKind
from probes.tasks.words.sentence import Sentence as Sentence
from probes.tasks.words.sentence import WordRows as WordRows
from probes.tasks.words.suites import load_columns_suite as load_columns_suite
from probes.tasks.words.suites import load_conllu_suite as load_conllu_suite
from probes.tasks.words.suites import load_hub_words_suite as load_hub_words_suite
from probes.tasks.words.treebank import treebank_suite as treebank_suite
