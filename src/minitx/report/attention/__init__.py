"""Views of attention maps, roles of heads, ablation and the logit lens."""
