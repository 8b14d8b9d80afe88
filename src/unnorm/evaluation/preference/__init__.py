"""Preference: whose answers a judge prefers, how sure that is, and how far the judge can be trusted."""

REPORT, OUTCOMES = "report.json", "outcomes.jsonl"
"""What a comparison leaves in its folder: all numbers, and the outcome of each question."""
