"""From a lesson's source to its notebooks, their outputs, and the learner's own copy."""
