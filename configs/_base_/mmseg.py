# MMEngine looks for MMSegmentation's configs under the name of OpenMMLab's own distribution; once
# mmact is imported it finds those of the onedl distribution too. custom_imports are read too late
# for that: this comes before a base 'mmseg::...', where nothing else has imported mmact. Not by a
# statement: in a virtual environment MMEngine 0.10 takes what imports for a config of another kind.
__import__('mmact')
