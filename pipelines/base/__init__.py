"""What every command needs: command line, configs, files, mmengine's runner, OpenMMLab's import."""
