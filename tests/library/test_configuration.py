"""Runs the library's common tests of configurations."""

import unittest

from library_tests import load

from modeling_proformer import ProformerConfig


common = load("test_configuration_common")


class ProformerConfigTest(unittest.TestCase):
    def test_common(self):
        sizes = {"kmer_size": 3, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
        common.ConfigTester(self, config_class=ProformerConfig, **sizes).run_common_tests()
