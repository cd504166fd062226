"""From a trained model to predictions, maps and exposure."""
