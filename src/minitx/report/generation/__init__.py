"""Views of generated text: as it comes, with probabilities, at a prompt."""
