"""Everything accelerated: what is computed here, the plain model computes too, only slower."""
