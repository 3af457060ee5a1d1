"""Where, layer by layer, does a task live in a language model?"""
