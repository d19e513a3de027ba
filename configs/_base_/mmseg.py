# MMEngine looks for MMSegmentation's configs under the name of OpenMMLab's own distribution; once
# mmact is imported it finds those of the onedl distribution too. custom_imports are read too late
# for that: this comes before a base 'mmseg::...', where nothing else has imported mmact.
import importlib

importlib.import_module('mmact')
