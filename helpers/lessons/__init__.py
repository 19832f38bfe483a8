"""A room for each lesson, ``l01`` and so on: its exercises as data, named like the lesson's cells (``ex1``).

``balance`` holds the one that lessons 04 and A1 share.
"""
