"""The audit: does a model that any tool made lie as near to retrained models as these lie to each other?"""
