"""How alike are two layers? Measures of matched layers, `(layers, rows, features)` twice to `(layers,)`."""
