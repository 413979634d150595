"""Measure and compare: profiles, evaluations, reports."""
