"""Probabilities of any chest CT scan: `predict.load(model)(scan)`, or as a program by `-m`."""

from multi_abnormality.predict.model import Prediction, Predictor, find_model, load
from multi_abnormality.predict.scans import find_scans

__all__ = ["Prediction", "Predictor", "find_model", "find_scans", "load"]
