#compdef agent
# zsh completion of agent(8)

local -a commands options
commands=(
    'run:the daemon, in the foreground'
    'reload:read the configuration again'
    'confirm:keep the configuration that is on trial'
    'check:validate the configuration files'
    'plan:what a reload would change'
    'show:the whole wanted state'
    'status:uplinks and policies'
    'flows:connections on the uplinks'
    'explain:where a packet goes, and why'
    'uplink:take an uplink out, and put it in again'
    'doctor:what is wrong on this machine, with remedies'
    'purge:remove everything multiroute owns'
    'version:print the version'
)
options=('--config[main configuration file]:file:_files' '--json[print JSON]')

if (( CURRENT == 2 )); then
    _describe command commands
    return
fi
case $words[2] in
reload) options+=('--confirm[the old configuration comes back after this time]:time:') ;;
show) options+=('2:what:(nft routes)') ;;
explain) options+=('--protocol[of the packet]:protocol:(tcp udp icmp)' '--interface[it comes in by]:interface:_net_interfaces'
    '--mac[hardware address of who sends it]:address:' '--dscp[its DSCP, a name or number]:value:' '--uid[the user on the router who sends it]:number:') ;;
status) options+=('--watch[look again every second, until Ctrl-C]') ;;
flows) options+=('2:uplink:') ;;
uplink) options+=('--for[it comes back after this time]:time:' '2:what:(disable enable)' '3:uplink:') ;;
esac
_arguments $options
