"""The command line: thin, a file a verb group; everything heavy is imported inside the verb that needs it."""
