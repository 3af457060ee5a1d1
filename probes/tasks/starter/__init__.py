"""The default suite: generated from a seed, without a download, with known ground truth."""

from probes.tasks.starter.next_word import next_word_suite as next_word_suite
from probes.tasks.starter.suite import STARTER_TASKS as STARTER_TASKS
from probes.tasks.starter.suite import starter_suite as starter_suite
from probes.tasks.starter.vocabulary import held_out_words as held_out_words
