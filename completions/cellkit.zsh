#compdef cellkit

_cellkit_completion() {
  eval $(env _TYPER_COMPLETE_ARGS="${words[1,$CURRENT]}" _CELLKIT_COMPLETE=complete_zsh cellkit)
}

compdef _cellkit_completion cellkit
