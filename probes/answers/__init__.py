"""How a causal language model answers: log-probabilities of given answers, minimal pairs, greedy text.

Tuning scores its models with it, and interventions ask what an edit of hidden states does to the answer.
"""

from probes.answers.answer_model import AnswerBatch as AnswerBatch
from probes.answers.answer_model import AnswerModel as AnswerModel
from probes.answers.examples import Example as Example
from probes.answers.examples import answer_ids as answer_ids
from probes.answers.examples import end_token as end_token
from probes.answers.examples import micro_batches as micro_batches
from probes.answers.greedy import greedy_answers as greedy_answers
from probes.answers.language_model import LanguageModel as LanguageModel
from probes.answers.questions import OptionBatch as OptionBatch
from probes.answers.questions import Questions as Questions
from probes.answers.questions import content_free_prompt as content_free_prompt
from probes.answers.questions import label_questions as label_questions
from probes.answers.questions import sentence_questions as sentence_questions
from probes.answers.recall_lists import RecallList as RecallList
from probes.answers.recall_lists import recall_lists as recall_lists
from probes.answers.recall_lists import recall_questions as recall_questions
