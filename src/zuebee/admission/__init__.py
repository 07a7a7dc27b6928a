"""May this request run, and at whose cost?"""
