"""Linear probes of many layers, solved to a certified optimum.

Every layer poses the same list of *problems*, which are convex and independent of each other. A problem is

    minimise over W and b:  Σᵢ sᵢ · loss(W xᵢ + b, yᵢ) + λ/2 · ‖W‖²

with one layer's standardised rows xᵢ, row shares sᵢ that sum to 1, one penalty λ, and one *labelling* of the rows: the
targets yᵢ of the true labels or of a control, and in a multi-label task of a single label among them.

Tensors have these axes, in this order:
    layers: each with its rows.
    problems: penalties × labellings, the labelling varying fastest; before penalties are assigned, labellings alone.
    outputs: entries of W xᵢ + b, the problem's logits: one for two classes, for a label and for regression, else one
        for each class.
    rows, or features, or rank + 1: a problem's parameters are its weights in a basis of rank `min(rows, features)`,
        and the bias last.

`eigenbasis` finds the basis, `losses` has the losses with their derivatives, `lbfgs` the method's two building blocks,
`minimise` the loop over iterations, `solve` the precision, the certificate and the public function `solve_linear`, and
`solver_module` runs that inside Lightning.
"""
