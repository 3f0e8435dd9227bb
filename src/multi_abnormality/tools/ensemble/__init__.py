"""Ensembles: revisions fused to one model, with scores, report and a DVC stage."""
