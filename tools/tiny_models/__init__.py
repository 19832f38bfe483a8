"""The maker of the tiny models that the course bundles."""
