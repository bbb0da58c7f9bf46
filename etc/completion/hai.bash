# Completion of hai for bash: verbs, options, jobs and nodes, as `hai complete` knows them.
_hai() {
    local IFS=$'\n'
    COMPREPLY=($(hai complete -- "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
    if [ ${#COMPREPLY[@]} -eq 0 ]; then
        compopt -o default
        COMPREPLY=()
    fi
    return 0
}
complete -F _hai hai
