"""What a trained model does with a text: attention, roles of heads, ablation, logit lens."""
