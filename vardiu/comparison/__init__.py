r"""Methods under equal budgets: contests, their plan, the processes, the study and the tables."""
