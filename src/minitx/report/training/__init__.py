"""Views of training: the plan, the live screen, plain lines, the profile, the diagnosis."""
