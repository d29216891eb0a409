"""The verbs and their options, from which the help is made. What they do is imported when they run."""
