"""A room for each lesson, ``l01`` and so on: its exercises as data, named like the lesson's cells (``ex1``).

A room with more than that is a package: what the lesson draws, and what it teaches. ``balance``, ``arithmetic`` and
``texts`` hold what two lessons share.
"""
