# bash completion of agent(8)

_agent() {
    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]} command='' word i words
    COMPREPLY=()
    case $previous in
    --config)
        mapfile -t COMPREPLY < <(compgen -f -- "$current")
        return
        ;;
    --interface)
        mapfile -t COMPREPLY < <(compgen -W "$(cd /sys/class/net && echo *)" -- "$current")
        return
        ;;
    --protocol)
        mapfile -t COMPREPLY < <(compgen -W 'tcp udp icmp' -- "$current")
        return
        ;;
    --for | --confirm | --mac | --dscp | --uid) return ;;
    esac
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        if [[ $word != -* ]]; then
            command=$word
            break
        fi
    done
    words='--config --json'
    case $command in
    '') words='run reload confirm check plan show status flows explain uplink doctor purge version help' ;;
    reload) words+=' --confirm' ;;
    status) words+=' --watch' ;;
    show) words+=' nft routes' ;;
    explain) words+=' --protocol --interface --mac --dscp --uid local' ;;
    flows) words+=" $(_agent_uplinks)" ;;
    uplink)
        case $previous in
        disable | enable) words=$(_agent_uplinks) ;;
        *) words+=' --for disable enable' ;;
        esac
        ;;
    esac
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
}

# The names of the uplinks, as the daemon knows them.
_agent_uplinks() {
    agent status 2>/dev/null | awk '$1 == "UPLINK" { on = 1; next } on && !NF { exit } on { print $1 }'
}

complete -F _agent agent
