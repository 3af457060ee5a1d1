"""The layer-by-layer study: control models, the experimental model and their base (Zhao, Ziser and Cohen 2024)."""
