"""Training: level sets, quantizers, update rules, models, data and the loop."""
