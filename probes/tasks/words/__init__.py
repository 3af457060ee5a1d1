"""Tasks whose rows are words, pairs of words or trees: CoNLL-U, columns, the Hub, and a generated treebank."""
