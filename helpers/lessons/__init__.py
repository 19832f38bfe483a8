"""A room for each lesson, ``l01`` and so on: its exercises as data, named like the lesson's cells (``ex1``)."""
