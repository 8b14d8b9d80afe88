"""Stages after training, each made again only if what shaped it has changed."""
