"""How well a model knows a text it was not trained on, and what else would know it as well."""
