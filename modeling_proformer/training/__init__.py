"""Fine-tuning, training from new weights, and what both share."""
