"""Teachers from elsewhere: one adapter an origin; `vardiu.teachers.load` chooses."""
