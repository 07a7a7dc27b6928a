"""The steps from one schema to the next; each is one file that is never changed once it was released."""
