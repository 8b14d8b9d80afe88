"""Preference: whose answers a judge prefers, how sure that is, and how far the judge can be trusted."""
