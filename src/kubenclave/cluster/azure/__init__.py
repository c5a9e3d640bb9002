"""The talking half of the room: Azure's official SDKs, and Graph by the same pipeline. Imported only by commands that need Azure."""
