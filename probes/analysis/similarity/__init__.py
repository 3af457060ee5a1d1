"""How similar are two layers? Measures of matched layers take `(layers, rows, features)` twice and return `(layers,)`.

Only `cka_pairs`, `hsic_pairs` and `minibatch_cka` compare every layer with every layer.
"""
