"""What a training needs of a machine and a project, looked at before one starts.

Each module looks at one part of the house and yields what it saw. They import what they need when
they look, so that a package that is missing is told and not tripped over.
"""
