"""Is what can be decoded also used? Studies that edit a model's hidden states and ask what becomes of its answers."""
