"""Chest CT phantoms in CT-RATE's layout: real formats, made-up patients."""
