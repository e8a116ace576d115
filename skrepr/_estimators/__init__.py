"""The estimators, each below the torch module with its mathematics."""
