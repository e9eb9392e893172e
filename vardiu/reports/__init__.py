r"""Pictures and pages."""
