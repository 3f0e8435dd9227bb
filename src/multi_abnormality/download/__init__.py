"""Fetches a part of CT-RATE from the Hugging Face hub into CT-RATE's own layout."""
