"""The audit: is a model, made by any tool, as near to retrained models as these are to each other?"""
