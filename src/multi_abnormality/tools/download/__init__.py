"""Download of a part of CT-RATE from the Hugging Face hub, in CT-RATE's own layout."""
