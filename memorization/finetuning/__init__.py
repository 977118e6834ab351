"""Fine-tuning with and against memorization: duplication, captions, and what is done to them while training."""
