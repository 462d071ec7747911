"""Metrics: functions of samples and references that know no model and no torch."""
